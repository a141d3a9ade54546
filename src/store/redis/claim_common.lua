-- The two claims that are common: of a record that is not there, and of one
-- that is completed or sealed. This text comes before record.lua, since making
-- the functions of record.lua takes a tenth of a script's time, and these two
-- claims call none of them.

local key, call = KEYS[1], redis.call
local nonce, fingerprint, lease, retention, refuse = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

-- Writes every field that any state but a completion has, so that nothing is
-- left of the claim before.
local function acquire(clock, token, attempt)
  local lapses_at = clock + lease
  call('HSET', key, 'format', '1', 'state', '1', 'nonce', nonce, 'token', token,
    'attempt', attempt, 'fingerprint', fingerprint, 'lapses_at', lapses_at,
    'retention', retention, 'refuse', refuse, 'scope', ARGV[8])
  if ARGV[9] ~= '' then
    -- With the token, since a version that knows no origin leaves that of the claim before.
    call('HSET', key, 'origin', string.format('%.0f', token) .. ' ' .. ARGV[9])
  end
  if refuse == '1' then
    call('PERSIST', key)
  else
    call('PEXPIREAT', key, math.ceil((lapses_at + retention) / 1000))
  end
  return { 'acquired', token, attempt }
end

if call('EXISTS', key) == 0 then
  if ARGV[10] then
    return { 'absent' }
  end
  local time = call('TIME')
  local clock = time[1] * 1000000 + time[2]
  return acquire(clock, clock, 1)
end

local record = call('HMGET', key, 'format', 'state', 'token', 'attempt', 'fingerprint',
  'lapses_at', 'scope', 'origin', 'nonce', 'retention', 'refuse', 'status', 'began_at', 'completed_at',
  'kept_for', 'answer', 'answer_length', 'answer_sha256')

-- Whether a text of digits is below 2^53. The reader of the answer checks that
-- these are digits.
local function is_small(text)
  return text and (#text < 16 or #text == 16 and text < '9007199254740992')
end

local state = record[2]
if record[1] == '1' and (state == '3' or state == '4')
  and is_small(record[3]) and is_small(record[4])
  and record[5] and #record[5] == 32 and record[9] and #record[9] == 16
then
  -- As found() of record.lua says it.
  record[1], record[6] = 'found', 0
  if state == '3' then
    record[9], record[10], record[11] = false, false, false
  else
    record[9] = nil
  end
  return record
end
