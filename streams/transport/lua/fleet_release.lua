-- Give partitions up.
-- KEYS[1] owners (hash: partition -> token)        ARGV[1] token of this worker
--                                                  ARGV[2..] partitions
-- Returns how many were this worker's.
local released = 0
for i = 2, #ARGV do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[1] then
    released = released + redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return released
