-- Whether a LicenseGrant is as declared, by the conditions that the operator writes.
local function told(condition)
  local message = condition.message or ""
  -- Most messages begin with their reason.
  if message:sub(1, #condition.reason) == condition.reason then
    return message
  end
  return condition.reason .. ": " .. message
end

if obj.metadata.deletionTimestamp ~= nil then
  return {status = "Progressing", message = "Being deleted"}
end
local status = obj.status
if status == nil or status.conditions == nil then
  return {status = "Progressing", message = "Not seen by the operator yet"}
end
local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready, stalled = conditions.Ready, conditions.Stalled
if ready == nil then
  return {status = "Progressing", message = "Not seen by the operator yet"}
end
-- What is said of an older generation says nothing of this one.
if ready.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "The newest change was not seen by the operator yet"}
end
if ready.reason == "Paused" then
  return {status = "Suspended", message = told(ready)}
end
if stalled ~= nil and stalled.status == "True" then
  return {status = "Degraded", message = told(stalled)}
end
if ready.status == "True" then
  return {status = "Healthy", message = told(ready)}
end
return {status = "Progressing", message = told(ready)}
