# Enqueues jobs that say how often they may be tried: ruby bounded.rb. The first argument tells which one it is.
require_relative "jobs"

queue = ENV.fetch("QUEUE")
OnceJob.perform_later("once, ActiveJob")
OnceWorker.set(queue: queue).perform_async("once")
EchoWorker.set(queue: queue, retry: 0).perform_async("no retry")
EchoWorker.set(queue: queue, retry: 1).perform_async("one retry")
EchoWorker.set(queue: queue, retry: 0, dead: false).perform_async("not kept")
EchoWorker.set(queue: queue).perform_async("many")
