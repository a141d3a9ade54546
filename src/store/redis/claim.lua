-- Makes the record in flight, or says what is there and writes nothing.
--
-- ARGV: nonce, fingerprint, lease, retention (both in microseconds), whether
-- it stays after a lapse, whether this claim takes over what has lapsed,
-- whether of another fingerprint too (each '0' or '1'), the scope, and where the
-- execution comes from: its span and route as `origin` has them, or nothing.
-- Answers: acquired, token, attempt | found, … | unreadable, why.

local takes_lapsed, takes_any = ARGV[6] == '1', ARGV[7] == '1'

local why
record, why = checked(record)
if why then
  return unreadable(why)
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
local clock = now()
local token, attempt = math.max(record[TOKEN] + 1, clock), record[ATTEMPT] + 1
if token >= LIMIT or attempt >= LIMIT then
  return unreadable('no number is left after its token or its attempt')
end
return acquire(clock, token, attempt)
