# The jobs of the tests in sidekiq_ruby.rs, for `sidekiq -r jobs.rb` and for enqueue.rb.
require "active_job"
require "sidekiq"

Redis.silence_deprecations = true
ActiveJob::Base.logger = nil
ActiveJob::Base.queue_adapter = :sidekiq
Sidekiq.logger.level = Logger::ERROR
Sidekiq.options[:average_scheduled_poll_interval] = 1

# Tells what it was called with, byte for byte.
class EchoJob < ActiveJob::Base
  queue_as { ENV.fetch("QUEUE") }

  def perform(*arguments)
    Sidekiq.redis { |redis| redis.rpush("ran", JSON.generate(arguments)) }
  end
end

# The same without ActiveJob.
class EchoWorker
  include Sidekiq::Worker

  def perform(*arguments)
    Sidekiq.redis { |redis| redis.rpush("ran", JSON.generate(arguments)) }
  end
end

# What must not be done twice, for ActiveJob (as Sidekiq has it within Rails) and without it.
class OnceJob < EchoJob
  include Sidekiq::Worker::Options
  sidekiq_options retry: false
end

class OnceWorker < EchoWorker
  sidekiq_options retry: false
end

# Whoever started this holds the other end: when it is gone, however it ended, so are we.
if ENV["HELD"]
  Thread.new do
    $stdin.read
    Process.kill(:KILL, Process.pid)
  end
end
