-- Note what is done with of entries that hold several messages, and count it, as far as this worker
-- still reads their partitions.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] token of this worker
-- KEYS[2] counts (hash)                       ARGV[2..] of each stream: its name in KEYS[1], its
-- KEYS[3..] what is noted of each stream        partition, how many entries, and of each its id and
--           (hash: entry id -> places)          the places of what is done with, "1,5,7"
local function places(text)
  local _, commas = string.gsub(text, ',', '')
  return commas + 1
end

local at = 2
for key = 3, #KEYS do
  local name, partition, entries, done = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), 0
  local is_ours = redis.call('HGET', KEYS[1], name) == ARGV[1]
  at = at + 3
  for _ = 1, entries do
    if is_ours then
      local noted = redis.call('HGET', KEYS[key], ARGV[at])
      done = done + places(ARGV[at + 1]) - (noted and places(noted) or 0)
      redis.call('HSET', KEYS[key], ARGV[at], ARGV[at + 1])
    end
    at = at + 2
  end
  if done ~= 0 then
    redis.call('HINCRBY', KEYS[2], 'done:' .. partition, done)
  end
end
return 1
