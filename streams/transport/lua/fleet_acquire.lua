-- Take partitions that nobody holds.
-- KEYS[1] beats (hash: token -> count)             ARGV[1] token of this worker
-- KEYS[2] owners (hash: partition -> token)        ARGV[2..] partitions
-- Returns those that are now this worker's; none if it is no member (any more).
local taken = {}
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  for i = 2, #ARGV do
    if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[1]) == 1 then
      taken[#taken + 1] = ARGV[i]
    end
  end
end
return taken
