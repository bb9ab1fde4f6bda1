-- Acknowledge entries that hold several messages, and count these.
-- KEYS[1] counts (hash)         ARGV[1] group
-- KEYS[2..] streams             ARGV[2..] of each stream: its partition, how many ids, and of each
--                               entry its id and how many messages it holds
-- Returns how many entries were pending until now.
local at, acknowledged = 2, 0
for key = 2, #KEYS do
  local partition, ids, done = ARGV[at], tonumber(ARGV[at + 1]), 0
  at = at + 2
  for _ = 1, ids do
    if redis.call('XACK', KEYS[key], ARGV[1], ARGV[at]) == 1 then
      acknowledged, done = acknowledged + 1, done + ARGV[at + 1]
    end
    at = at + 2
  end
  redis.call('HINCRBY', KEYS[1], 'done:' .. partition, done)
end
return acknowledged
