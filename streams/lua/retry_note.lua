-- Note the attempts at a delivery, if this worker still reads its partition: a worker that was
-- frozen must not note what another one has delivered meanwhile.
-- KEYS[1] owners (hash: partition -> token)        ARGV[1] partition, ARGV[2] token of this worker
-- KEYS[2] notes (hash: entry id -> attempts)       ARGV[3] entry id, ARGV[4] attempts
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
end
