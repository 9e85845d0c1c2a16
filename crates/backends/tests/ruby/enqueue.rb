# Enqueues JOBS jobs as an application would: ruby enqueue.rb. Half of them go through ActiveJob.
require_relative "jobs"

Integer(ENV.fetch("JOBS")).times do |number|
  arguments = [number, 9_007_199_254_740_993 + number, "Größe \u2028 👩‍🚀", [nil, 1.5, 10**30]]
  if number.even?
    EchoJob.perform_later(*arguments)
  else
    EchoWorker.set(queue: ENV.fetch("QUEUE")).perform_async(*arguments)
  end
end
