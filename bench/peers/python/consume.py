"""A peer of the measurements: python consume.py URL QUEUE COUNT PREFETCH, with pika, each message acknowledged.

Says `ready` when it is connected, begins when it is told `go`, and says how many microseconds its slice took by its own
clock: from the first delivery until the broker has taken every acknowledgement (it answers the channel's close after
them). It uses pika's asynchronous connection, which is faster than its blocking one.
"""

import sys
import time

import pika

url, queue = sys.argv[1:3]
count, prefetch = map(int, sys.argv[3:5])
handled = 0
read = 0
began = 0


def on_message(channel, method, _properties, body):
    global handled, read, began
    if handled == 0:
        began = time.monotonic_ns()
    handled += 1
    read += len(body)
    channel.basic_ack(method.delivery_tag)
    if handled == count:
        channel.close()


def on_prefetch(channel):
    print("ready", flush=True)
    sys.stdin.readline()
    channel.basic_consume(queue, on_message)


def on_channel(channel):
    channel.add_on_close_callback(on_closed)
    channel.basic_qos(prefetch_count=prefetch, callback=lambda _: on_prefetch(channel))


def on_closed(_channel, reason):
    if handled != count or read == 0:
        sys.exit(f"the channel ended after {handled} of {count} messages: {reason}")
    print((time.monotonic_ns() - began) // 1000, flush=True)
    connection.close()


connection = pika.SelectConnection(
    pika.URLParameters(url),
    on_open_callback=lambda opened: opened.channel(on_open_callback=on_channel),
    on_open_error_callback=lambda _, error: sys.exit(f"cannot connect: {error!r}"),
    on_close_callback=lambda closed, _: closed.ioloop.stop(),
)
connection.ioloop.start()
