-- Append entries that hold several messages to one topic or to several, perhaps only while this worker
-- reads a certain partition.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] partition, ARGV[2] token of this worker;
-- KEYS[2..] the counts (hash) of each topic,    '' for none
--           then of each topic the streams    ARGV[3] how many topics
--           that are appended to, as many     ARGV[4..] of each entry: which of these streams, from 0;
--           of each                             its partition, how many messages, how many arguments,
--                                               and these
-- Returns 1; nothing is appended, and false returned, if another worker reads the partition.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local call, argv, topics = redis.call, ARGV, tonumber(ARGV[3])
local streams = (#KEYS - 1 - topics) / topics
local at, stop = 4, #argv
while at <= stop do
  local added, last = 'added:' .. argv[at + 1], at + 3 + argv[at + 3]
  local key = topics + 2 + argv[at]
  for topic = 1, topics do
    call('XADD', KEYS[key + (topic - 1) * streams], '*', unpack(argv, at + 4, last))
    call('HINCRBY', KEYS[1 + topic], added, argv[at + 2])
  end
  at = last + 1
end
return 1
