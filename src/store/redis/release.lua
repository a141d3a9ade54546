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
if not record or record.nonce ~= nonce or not is_undone(record) then
  return { 'lost' }
end
if state == RELEASED then
  redis.call('DEL', key)
  redis.call('HSET', key, 'format', FORMAT, 'state', RELEASED, 'token', exact(record.token),
    'attempt', exact(record.attempt))
  ends_at(now() + record.retention)
else
  record.lapses_at = now()
  redis.call('HSET', key, 'state', UNKNOWN, 'lapses_at', exact(record.lapses_at))
  lapses(record)
end
tell(state)
return { 'held' }
