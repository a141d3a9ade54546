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

local clock, token, attempt
if record then
  if is_done(record) then
    return found(record, 0)
  end
  if record[STATE] == IN_FLIGHT and record[NONCE] == nonce then
    -- Sent again, since its acknowledgement was lost.
    local lapses_at = now() + lease
    call('HSET', key, 'lapses_at', lapses_at)
    lapses(lapses_at, record[RETENTION], record[REFUSE])
    return { 'acquired', record[TOKEN], record[ATTEMPT] }
  end
  if record[STATE] ~= RELEASED then
    local lapses_in = left(record)
    local takes = takes_lapsed and (takes_any or record[FINGERPRINT] == fingerprint)
    if lapses_in > 0 or not takes then
      return found(record, lapses_in)
    end
  end
  clock = now()
  token = math.max(record[TOKEN] + 1, clock)
  attempt = record[ATTEMPT] + 1
  if token >= LIMIT or attempt >= LIMIT then
    return unreadable('no number is left after its token or its attempt')
  end
else
  clock = now()
  token, attempt = clock, 1
end

-- Every field that any state but a completion has, so that nothing is left of
-- the claim before.
local lapses_at = clock + lease
call('HSET', key, 'format', FORMAT, 'state', IN_FLIGHT, 'nonce', nonce, 'token', token,
  'attempt', attempt, 'fingerprint', fingerprint, 'lapses_at', lapses_at,
  'retention', retention, 'refuse', refuse)
lapses(lapses_at, retention, refuse)
return { 'acquired', token, attempt }
