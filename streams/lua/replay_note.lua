-- Note which entry a replay was sent as; runs in the transaction that has just appended it.
-- KEYS[1] stream                                  ARGV[1] number of the replay
-- KEYS[2] note (text: "<number> <entry id>")      ARGV[2] field of the entry that names the letter
--                                                 ARGV[3] the letter's number
--                                                 ARGV[4] seconds that the note is kept
-- An XADD that fails does not stop the commands behind it, so the last entry is looked at.
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then
  for i = 1, #last[2], 2 do
    if last[2][i] == ARGV[2] and last[2][i + 1] == ARGV[3] then
      redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. last[1], 'EX', ARGV[4])
      return last[1]
    end
  end
end
return redis.error_reply('ERR the entry was not appended')
