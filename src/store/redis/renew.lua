-- Puts the end of a lease one length ahead of now. Never makes a record.
--
-- ARGV: nonce, lease in microseconds.
-- Answers: held | lost | unreadable, why.

local nonce, lease = ARGV[1], ARGV[2]

local record, why = read()
if why then
  return unreadable(why)
end
if not record or record[NONCE] ~= nonce then
  return { 'lost' }
end
if record[STATE] == IN_FLIGHT then
  local lapses_at = now() + lease
  call('HSET', key, 'lapses_at', lapses_at)
  lapses(lapses_at, record[RETENTION], record[REFUSE])
  return { 'held' }
end
return { is_done(record) and 'held' or 'lost' }
