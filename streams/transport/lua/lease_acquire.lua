-- Take the lease if nobody else holds it.
-- KEYS[1] lease (hash: token, worker)      ARGV[1] token of this worker
-- KEYS[2] counter of terms of ownership    ARGV[2] name of this worker
-- KEYS[3] connection of the last reader    ARGV[3] length of the lease, ms
-- Returns {term of ownership, connection of the reader before}, or {0, name of the holder}.
local holder = redis.call('HGET', KEYS[1], 'token')
if holder and holder ~= ARGV[1] then
  return {0, redis.call('HGET', KEYS[1], 'worker')}
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'worker', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {redis.call('INCR', KEYS[2]), redis.call('GET', KEYS[3]) or ''}
