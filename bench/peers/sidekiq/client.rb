# Pushes jobs: ruby client.rb PRODUCERS BATCH, JOBS from the environment. Begins when it is told `go`.
require "sidekiq"

# As in server.rb.
Redis.silence_deprecations = true

$stdout.sync = true
jobs = Integer(ENV.fetch("JOBS"))
producers, batch = ARGV.map { |word| Integer(word) }
NOTE = ("please ring twice " * 8)[0, 100]

Sidekiq.configure_client { |config| config.redis = { url: ENV.fetch("REDIS_URL"), size: producers } }

def order(id)
  { "order_id" => id, "customer" => "customer-#{id % 10_007}", "amount_cents" => 1999, "currency" => "EUR", "note" => NOTE }
end

sent = 0
lock = Mutex.new
# Connected before the clock runs.
Sidekiq.redis(&:ping)
puts "ready"
$stdin.gets

threads = Array.new(producers) do
  Thread.new do
    loop do
      first = lock.synchronize { sent.tap { sent += batch } }
      break if first >= jobs

      ids = first...[first + batch, jobs].min
      if batch == 1
        Sidekiq::Client.push("class" => "OrderJob", "args" => [order(first)], "retry" => false)
      else
        Sidekiq::Client.push_bulk("class" => "OrderJob", "args" => ids.map { |id| [order(id)] }, "retry" => false)
      end
    end
  end
end
threads.each(&:join)
