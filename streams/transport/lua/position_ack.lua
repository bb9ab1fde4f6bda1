-- Acknowledge entries, and first write down how far was read: whatever was delivered behind that
-- is then still pending, and can be counted by whoever takes over.
-- KEYS[1] stream               ARGV[1] group
-- KEYS[2] position (hash)      ARGV[2..4] epoch, id and ordinal of what was read last
--                              ARGV[5..] ids to acknowledge
-- A position never goes back: a worker that was frozen may be late.
local at = redis.call('HMGET', KEYS[2], 'epoch', 'id', 'lost')
if at[1] == ARGV[2] and below(at[2], ARGV[3]) then
  redis.call('HSET', KEYS[2], 'id', ARGV[3], 'ordinal', ARGV[4])
  local stream = figures_of(KEYS[1])
  if stream and stream.last == ARGV[3] and stream.added == ARGV[4] + at[3] then
    redis.call('HSET', KEYS[2], 'clean', ARGV[3])
  end
end
return redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 5))
