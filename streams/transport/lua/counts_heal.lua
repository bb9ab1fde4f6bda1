-- Where a stream is empty, all that was added is done with: whatever was miscounted is forgotten.
-- KEYS[1] counts (hash)      ARGV partitions
-- KEYS[2..] their streams
for i = 1, #ARGV do
  if redis.call('XLEN', KEYS[i + 1]) == 0 then
    local added, done = 'added:' .. ARGV[i], 'done:' .. ARGV[i]
    local counts = redis.call('HMGET', KEYS[1], added, done)
    if counts[1] ~= counts[2] then
      redis.call('HSET', KEYS[1], done, counts[1] or 0, added, counts[1] or 0)
    end
  end
end
