-- The completion that is common: of a record in flight under this very lease, without
-- steps.
-- This text comes before record.lua, as claim_common.lua does.

local key, call, find = KEYS[1], redis.call, string.find
local nonce, token, attempt, fingerprint = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state, kept_for = ARGV[5], ARGV[6]

local function write_outcome()
  if state == '3' then
    call('HSET', key, 'state', state, 'status', ARGV[7], 'began_at', ARGV[8],
      'completed_at', ARGV[9], 'kept_for', kept_for, 'answer', ARGV[10],
      'answer_length', ARGV[11], 'answer_sha256', ARGV[12])
  else
    call('HSET', key, 'state', state)
  end
end

-- No end is now or before: the record would go, and come back without one.
local function end_after_retention()
  local time = call('TIME')
  local done_with = time[1] * 1000000 + time[2] + math.max(tonumber(kept_for), 1000)
  call('PEXPIREAT', key, math.ceil(done_with / 1000))
end

-- A number of 16 digits may be beyond 2^53, which record.lua finds out.
local function is_number(text)
  return text and #text <= 16 and find(text, '^%d+$') and tonumber(text) < 9007199254740992
end

local own = call('HMGET', key, 'format', 'state', 'nonce', 'token', 'attempt', 'fingerprint',
  'refuse', 'lapses_at', 'retention', 'steps')
if own[1] == '1' and own[2] == '1' and own[3] == nonce and own[4] == token
  and own[5] == attempt and own[6] == fingerprint and (own[7] == '0' or own[7] == '1')
  and is_number(own[8]) and is_number(own[9]) and not own[10]
then
  -- First, so that a server at its memory limit takes what comes next: it
  -- refuses a script's first write if that takes room, and no later one. A
  -- finished operation is recorded; a claim is what a full server refuses.
  end_after_retention()
  write_outcome()
  -- Last: until the record is done it can't be read without these.
  call('HDEL', key, 'lapses_at', 'retention', 'refuse')
  redis.pcall('PUBLISH', key, state)
  return { 'held' }
end
