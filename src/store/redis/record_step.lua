-- Adds the result of a step to a record in flight, once for each name.
--
-- ARGV: nonce, name, result.
-- Answers: held | lost | unreadable, why.

local nonce, name, result = ARGV[1], ARGV[2], ARGV[3]

local record, why = read()
if why then
  return unreadable(why)
end
if not record or record[NONCE] ~= nonce or record[STATE] ~= IN_FLIGHT then
  return { 'lost' }
end
local names, text = step_names()
if not names then
  return unreadable(text)
end
for _, other in ipairs(names) do
  if other == name then
    return { 'held' }
  end
end
-- One command, so that a server at its memory limit takes both fields or none.
call('HSET', key, 'steps', text .. #name .. ':' .. name, 'step:' .. name, result)
return { 'held' }
