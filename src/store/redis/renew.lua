-- Puts the end of a lease one length ahead of now. Never makes a record.
--
-- ARGV: nonce, lease in microseconds.
-- Answers: held | lost | unreadable, why.

local nonce, lease = ARGV[1], ARGV[2]

local record, why = read()
if why then
  return unreadable(why)
end
if not record or record.nonce ~= nonce then
  return { 'lost' }
end
if record.state == IN_FLIGHT then
  record.lapses_at = now() + tonumber(lease)
  redis.call('HSET', key, 'lapses_at', exact(record.lapses_at))
  lapses(record)
  return { 'held' }
end
return { is_done(record) and 'held' or 'lost' }
