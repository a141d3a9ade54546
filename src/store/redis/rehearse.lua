-- Calls every command that the other scripts call, on a key of its own, of
-- which nothing is left: a right that is missing shows here, and not after
-- half of a script.
--
-- Answers: nothing, or a command that failed and why. PUBLISH comes last, since
-- the others are done without it.

local key = KEYS[1]

-- Nothing is written before it is known that it can be removed.
for _, command in ipairs({
  { 'TIME' },
  { 'HMGET', key, 'format' },
  { 'EXISTS', key },
  { 'DEL', key },
  { 'HDEL', key, 'format' },
  { 'PEXPIREAT', key, '1' },
  { 'PERSIST', key },
  { 'HSET', key, 'format', '0' },
  { 'DEL', key },
  { 'PUBLISH', key, '0' },
}) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then
    return { command[1], answer.err }
  end
end
return {}
