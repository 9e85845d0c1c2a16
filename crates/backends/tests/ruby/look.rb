# Prints what Sidekiq's own interface, which its pages are made of, knows of the queue QUEUE.
require_relative "jobs"
require "sidekiq/api"

def entries(set)
  set.map do |job|
    {
      class: job.display_class, arguments: JSON.generate(job.display_args), queue: job.queue, jid: job.jid,
      error: job["error_message"], count: job["retry_count"], failed_at: job["failed_at"], in: job.score - Time.now.to_f
    }
  end
end

queue = Sidekiq::Queue.new(ENV.fetch("QUEUE"))
stats = Sidekiq::Stats.new
puts JSON.generate(
  queues: Sidekiq::Queue.all.map(&:name), size: queue.size, latency: queue.latency, first: queue.first&.display_class,
  enqueued: stats.enqueued, processed: stats.processed, failed: stats.failed,
  retries: entries(Sidekiq::RetrySet.new), dead: entries(Sidekiq::DeadSet.new), scheduled: entries(Sidekiq::ScheduledSet.new)
)
Sidekiq::RetrySet.new.retry_all if ENV["RETRY"]
