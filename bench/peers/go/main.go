// A peer of the measurements: one slice of work with Go's amqp091 client.
//
//	amqp-peer consume URL QUEUE COUNT PREFETCH ACK_EVERY
//	amqp-peer publish URL QUEUE COUNT WINDOW BODY_BYTES
//
// Says `ready` when it is connected, begins when it is told `go`, and says how many microseconds its slice took by its
// own clock: from the first delivery until the broker has taken every acknowledgement (it answers the channel's close
// after them), or from the first publication to the last confirm.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 5 {
		log.Fatal("usage: amqp-peer consume|publish URL QUEUE COUNT ...")
	}
	connection, err := amqp.Dial(os.Args[2])
	check(err)
	channel, err := connection.Channel()
	check(err)
	queue, count := os.Args[3], number(4)
	var took time.Duration
	switch os.Args[1] {
	case "consume":
		took = consume(channel, queue, count, number(5), number(6))
	case "publish":
		took = publish(channel, queue, count, number(5), number(6))
	default:
		log.Fatalf("%q is neither consume nor publish", os.Args[1])
	}
	fmt.Println(took.Microseconds())
	check(connection.Close())
}

func consume(channel *amqp.Channel, queue string, count, prefetch, ackEvery int) time.Duration {
	check(channel.Qos(prefetch, 0, false))
	awaitGo()
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	check(err)
	var began time.Time
	read := 0
	for handled := 1; handled <= count; handled++ {
		delivery, isOpen := <-deliveries
		if !isOpen {
			log.Fatal("the broker ended the channel")
		}
		if handled == 1 {
			began = time.Now()
		}
		read += len(delivery.Body)
		if handled%ackEvery == 0 || handled == count {
			check(delivery.Ack(ackEvery > 1))
		}
	}
	check(channel.Close())
	if read == 0 {
		log.Fatal("all messages were empty")
	}
	return time.Since(began)
}

func publish(channel *amqp.Channel, queue string, count, window, bodyBytes int) time.Duration {
	check(channel.Confirm(false))
	body := bytes.Repeat([]byte("x"), bodyBytes)
	unconfirmed := make(chan *amqp.DeferredConfirmation, window)
	awaitGo()
	began := time.Now()
	for sent := 0; sent < count; sent++ {
		if len(unconfirmed) == window {
			confirmed(<-unconfirmed)
		}
		confirmation, err := channel.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent,
			MessageId:    fmt.Sprintf("%024x", sent),
			Timestamp:    time.Now(),
			Type:         "bench/order",
			Body:         body,
		})
		check(err)
		unconfirmed <- confirmation
	}
	close(unconfirmed)
	for confirmation := range unconfirmed {
		confirmed(confirmation)
	}
	return time.Since(began)
}

func confirmed(confirmation *amqp.DeferredConfirmation) {
	isTaken, err := confirmation.WaitContext(context.Background())
	check(err)
	if !isTaken {
		log.Fatal("the broker refused a message")
	}
}

func awaitGo() {
	fmt.Println("ready")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	check(err)
}

func number(index int) int {
	if index >= len(os.Args) {
		log.Fatalf("argument %d is missing", index)
	}
	value, err := strconv.Atoi(os.Args[index])
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
