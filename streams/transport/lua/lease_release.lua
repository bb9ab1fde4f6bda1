-- Give the lease back if this worker still holds it.
-- KEYS[1] lease                            ARGV[1] token of this worker
-- KEYS[2] connection of the reader
-- Returns 1, or 0 if it was not held.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
