-- Ends the operation with an outcome: stores it if the record is in flight or
-- unknown under this nonce, lapsed or not, if there is none, or if a tombstone
-- with no higher token stands there.
--
-- ARGV: nonce, token, attempt, fingerprint, the state it gets ('3' completed,
-- '4' sealed), for how long it is kept in microseconds; of a completion then
-- status, began_at, completed_at, answer, answer_length, answer_sha256.
-- Answers: held | lost | unreadable, why.

local nonce, token, attempt, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state, kept_for = ARGV[5], ARGV[6]

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

-- No end is now or before: the record would go, and come back without one.
local done_with = now() + math.max(tonumber(kept_for), 1000)
if record then
  -- First, so that a server at its memory limit takes what comes next: it
  -- refuses a script's first write if that takes room, and no later one. A
  -- finished operation is recorded; a claim is what a full server refuses.
  ends_at(done_with)
end
if not owned then
  call('HSET', key, 'format', FORMAT, 'nonce', nonce, 'token', token, 'attempt', attempt,
    'fingerprint', fingerprint)
end
if state == COMPLETED then
  call('HSET', key, 'state', state, 'status', ARGV[7], 'began_at', ARGV[8],
    'completed_at', ARGV[9], 'kept_for', kept_for, 'answer', ARGV[10],
    'answer_length', ARGV[11], 'answer_sha256', ARGV[12])
else
  call('HSET', key, 'state', state)
end
if not record then
  ends_at(done_with)
elseif owned then
  call('HDEL', key, 'lapses_at', 'retention', 'refuse')
end
tell(state)
return { 'held' }
