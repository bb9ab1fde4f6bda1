-- Claim what other names hold and have left alone, without throwing away what is gone.
-- KEYS[1] stream               ARGV[1] group, ARGV[2] our consumer name, ARGV[3] idle time in ms
--                              ARGV[4] entries to look at, ARGV[5] id to look behind
-- Returns {how many were claimed, ids of those whose bodies are gone, last id looked at or ''}.
local page = redis.call(
  'XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '(' .. ARGV[5], '+', ARGV[4])
local there, gone = {}, {}
for _, pending in ipairs(page) do
  if pending[2] ~= ARGV[2] then
    local is_there = #redis.call('XRANGE', KEYS[1], pending[1], pending[1]) > 0
    table.insert(is_there and there or gone, pending[1])
  end
end
if #there > 0 then
  local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], unpack(there)}
  table.insert(claim, 'JUSTID')
  redis.call(unpack(claim))
end
return {#there, gone, #page > 0 and page[#page][1] or ''}
