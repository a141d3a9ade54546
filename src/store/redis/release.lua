-- Ends the operation without an outcome: leaves a tombstone of token and
-- attempt, or marks the outcome as unknown.
--
-- ARGV: nonce, the state it gets ('5' released, '2' unknown).
-- Answers: held | lost | unreadable, why.

local nonce, state = ARGV[1], ARGV[2]

local record, why = read()
if why then
  return unreadable(why)
end
if not record or record[NONCE] ~= nonce or not is_undone(record) then
  return { 'lost' }
end
local clock = now()
if state == RELEASED then
  -- First, since no memory limit refuses it, nor what follows it then.
  ends_at(clock + math.max(record[RETENTION], 1000))
  call('HSET', key, 'state', RELEASED)
  call('HDEL', key, 'nonce', 'fingerprint', 'lapses_at', 'retention', 'refuse')
else
  call('HSET', key, 'state', UNKNOWN, 'lapses_at', clock)
  lapses(clock, record[RETENTION], record[REFUSE])
end
tell(state)
return { 'held' }
