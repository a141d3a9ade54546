-- Makes the record in flight, or says what is there and writes nothing.
--
-- ARGV: nonce, fingerprint, lease, retention (both in microseconds), whether
-- it stays after a lapse, whether this claim takes over what has lapsed,
-- whether of another fingerprint too (each '0' or '1'), the scope, and where the
-- execution comes from: its span and route as `origin` has them, or nothing. A
-- claim by hand also has the token and the attempt of the record that is meant:
-- it takes that one over and no other, and makes none.
-- Answers: acquired, token, attempt, name and result of each step | found, … |
-- absent | unreadable, why.

local takes_lapsed, takes_any = ARGV[6] == '1', ARGV[7] == '1'

local why
record, why = checked(record)
if why then
  return unreadable(why)
end

-- The answer, with the steps that earlier attempts have recorded.
local function with_steps(answer, names)
  if #names > 0 then
    for at, result in ipairs(call('HMGET', key, unpack(step_fields(names)))) do
      answer[#answer + 1] = names[at]
      answer[#answer + 1] = result
    end
  end
  return answer
end

if record[STATE] == IN_FLIGHT and record[NONCE] == nonce then
  -- Sent again, since its acknowledgement was lost.
  local names, text = step_names()
  if not names then
    return unreadable(text)
  end
  local lapses_at = now() + lease
  call('HSET', key, 'lapses_at', lapses_at)
  lapses(lapses_at, record[RETENTION], record[REFUSE])
  return with_steps({ 'acquired', record[TOKEN], record[ATTEMPT] }, names)
end
if record[STATE] == RELEASED then
  if ARGV[10] then
    return found(record, 0)
  end
else
  local lapses_in = left(record)
  local is_meant = not ARGV[10]
    or record[TOKEN] == number(ARGV[10]) and record[ATTEMPT] == number(ARGV[11])
  local takes = is_meant and takes_lapsed and (takes_any or record[FINGERPRINT] == fingerprint)
  if lapses_in > 0 or not takes then
    return found(record, lapses_in)
  end
end
local clock = now()
local token, attempt = math.max(record[TOKEN] + 1, clock), record[ATTEMPT] + 1
if token >= LIMIT or attempt >= LIMIT then
  return unreadable('no number is left after its token or its attempt')
end
local names, text = step_names()
if not names then
  return unreadable(text)
end
return with_steps(acquire(clock, token, attempt), names)
