-- Ends the operation with an outcome: stores it if the record is in flight or
-- unknown under this nonce, lapsed or not, if there is none, or if a tombstone
-- with no higher token stands there.
--
-- ARGV: nonce, token, attempt, fingerprint, the state it gets ('3' completed,
-- '4' sealed), for how long it is kept in microseconds; of a completion then
-- status, began_at, completed_at, answer, answer_length, answer_sha256; and last,
-- for a record that is made anew, scope and origin as a claim has them.
-- Answers: held | lost | unreadable, why.

local record, why = read()
if why then
  return unreadable(why)
end
local owned = record and record[NONCE] == nonce
if record then
  if owned and is_done(record) then
    return { 'held' }
  end
  local vacant = record[STATE] == RELEASED and record[TOKEN] <= tonumber(token)
  if not vacant and not (owned and is_undone(record)) then
    return { 'lost' }
  end
end

if record then
  -- Before all else, as in complete_common.lua.
  end_after_retention()
end
if not owned then
  local scope, origin = ARGV[#ARGV - 1], ARGV[#ARGV]
  call('HSET', key, 'format', FORMAT, 'nonce', nonce, 'token', token, 'attempt', attempt,
    'fingerprint', fingerprint, 'scope', scope)
  if origin ~= '' then
    call('HSET', key, 'origin', token .. ' ' .. origin)
  end
end
write_outcome()
if not record then
  end_after_retention()
elseif owned then
  call('HDEL', key, 'lapses_at', 'retention', 'refuse')
end
local names = record and step_names() or {}
if #names > 0 then
  call('HDEL', key, 'steps', unpack(step_fields(names)))
end
tell(state)
return { 'held' }
