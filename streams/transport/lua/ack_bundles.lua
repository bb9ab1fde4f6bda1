-- Acknowledge entries that hold several messages, and count these.
-- KEYS[1] counts (hash)           ARGV[1] group
-- KEYS[2..] each stream, and      ARGV[2..] of each stream: its partition, how many ids, and of each
--           what is noted of it             entry its id and how many messages it holds
-- Returns how many entries were pending until now.
local at, acknowledged = 2, 0
for key = 2, #KEYS, 2 do
  local partition, ids, done = ARGV[at], tonumber(ARGV[at + 1]), 0
  local parts = KEYS[key + 1]
  at = at + 2
  for _ = 1, ids do
    local id = ARGV[at]
    local noted = redis.call('HGET', parts, id)
    if redis.call('XACK', KEYS[key], ARGV[1], id) == 1 then
      acknowledged, done = acknowledged + 1, done + ARGV[at + 1]
      if noted then
        local _, commas = string.gsub(noted, ',', '')
        done = done - commas - 1
      end
    end
    if noted then
      redis.call('HDEL', parts, id)
    end
    at = at + 2
  end
  redis.call('HINCRBY', KEYS[1], 'done:' .. partition, done)
end
return acknowledged
