"""A peer of the measurements: python consume.py URL QUEUE COUNT PREFETCH, with pika, each message acknowledged.

Says `ready` when it is connected, begins when it is told `go`, and says how many microseconds its slice took by its own
clock: from the first delivery until the broker has taken every acknowledgement (it answers the channel's close after
them). It uses pika's blocking connection, which is what its documentation shows first and most programs have.
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
        channel.stop_consuming()


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=prefetch)
print("ready", flush=True)
sys.stdin.readline()
channel.basic_consume(queue, on_message)
channel.start_consuming()
channel.close()
print((time.monotonic_ns() - began) // 1000, flush=True)
if handled != count or read == 0:
    sys.exit(f"{handled} of {count} messages came")
connection.close()
