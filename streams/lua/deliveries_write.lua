-- Record the last attempt at each of some deliveries to one sink, and keep only the newest.
-- KEYS[1] when (sorted set: delivery id -> ms)     ARGV[1] how many are kept
-- KEYS[2] rows (hash: delivery id -> JSON)         ARGV[2...] of each delivery: its id, ms, row,
-- KEYS[3] events (hash: delivery id -> JSON)       and event (empty: it is not kept)
for i = 2, #ARGV, 4 do
  local id, ms, row, event = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  -- What is no newer than the row that is there is said again, or late, by a former owner.
  if redis.call('ZADD', KEYS[1], 'GT', 'CH', ms, id) == 1 then
    redis.call('HSET', KEYS[2], id, row)
    if event == '' then
      redis.call('HDEL', KEYS[3], id)
    else
      redis.call('HSET', KEYS[3], id, event)
    end
  end
end
local surplus = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[1])
if surplus > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, surplus - 1)) do
    redis.call('HDEL', KEYS[2], id)
    redis.call('HDEL', KEYS[3], id)
  end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, surplus - 1)
end
