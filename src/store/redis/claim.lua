-- Makes the record in flight, or says what is there and writes nothing.
--
-- ARGV: nonce, fingerprint, lease, retention (both in microseconds), whether
-- it stays after a lapse, whether this claim takes over what has lapsed,
-- whether of another fingerprint too (each '0' or '1').
-- Answers: acquired, token, attempt | found, … | unreadable, why.

local nonce, fingerprint, lease, retention, refuse = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local takes_lapsed, takes_any = ARGV[6] == '1', ARGV[7] == '1'

local record, why = read(true)
if why then
  return unreadable(why)
end

local token, attempt = 0, 1
if record then
  if record.state == IN_FLIGHT and record.nonce == nonce then
    -- Sent again, since its acknowledgement was lost.
    record.lapses_at = now() + tonumber(lease)
    redis.call('HSET', key, 'lapses_at', exact(record.lapses_at))
    lapses(record)
    return { 'acquired', exact(record.token), exact(record.attempt) }
  end
  local takes = is_lapsed(record) and takes_lapsed
    and (takes_any or record.fingerprint == fingerprint)
  if record.state ~= RELEASED and not takes then
    return found(record)
  end
  token = record.token + 1
  attempt = record.attempt + 1
  if token >= LIMIT or attempt >= LIMIT then
    return unreadable('no number is left after its token or its attempt')
  end
end
token = math.max(token, now())
local lapses_at = now() + tonumber(lease)

-- Every field that any state but a completion has, so that nothing is left of
-- the claim before.
redis.call('HSET', key, 'format', FORMAT, 'state', IN_FLIGHT, 'nonce', nonce,
  'token', exact(token), 'attempt', exact(attempt), 'fingerprint', fingerprint,
  'lapses_at', exact(lapses_at), 'retention', retention, 'refuse', refuse)
lapses({ lapses_at = lapses_at, retention = tonumber(retention), refuse = refuse })
return { 'acquired', exact(token), exact(attempt) }
