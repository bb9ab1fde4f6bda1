-- Prolong the lease if this worker still holds it, and note the connection it reads over.
-- KEYS[1] lease                            ARGV[1] token of this worker
-- KEYS[2] connection of the reader         ARGV[2] length of the lease, ms
--                                          ARGV[3] connection ('' leaves the note as it is)
-- Returns 1, or 0 if the lease is lost.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[2], ARGV[3])
end
return 1
