# Handles jobs, inside `sidekiq -r server.rb`. Says `ready`, and `done` when it has handled JOBS of them.
require "sidekiq"

$stdout.sync = true
JOBS = Integer(ENV.fetch("JOBS"))
DONE = Queue.new

# The logger is per line of work: silence is what production would choose for a benchmark, too.
Sidekiq.logger.level = Logger::ERROR

# Debian pairs it with a Redis client that warns on every fetch, which would be what is measured.
Redis.silence_deprecations = true

class OrderJob
  include Sidekiq::Worker
  sidekiq_options retry: false

  # Sidekiq has decoded the arguments by now; the handler reads every field, as ours does.
  def perform(order)
    order.fetch("order_id") ^ order.fetch("amount_cents") ^
      (order.fetch("customer").size + order.fetch("currency").size + order.fetch("note").size)
    DONE << true
  end
end

Sidekiq.configure_server do |config|
  config.on(:startup) do
    puts "ready"
    Thread.new do
      JOBS.times { DONE.pop }
      puts "done"
    end
  end
end
