/* All of rondo. */
#ifndef RONDO_RONDO_H
#define RONDO_RONDO_H

#include <rondo/address.h>
#include <rondo/app.h>
#include <rondo/bytes.h>
#include <rondo/client.h>
#include <rondo/datagram.h>
#include <rondo/executor.h>
#include <rondo/line.h>
#include <rondo/log.h>
#include <rondo/loop.h>
#include <rondo/pipe.h>
#include <rondo/process.h>
#include <rondo/producer.h>
#include <rondo/protocol.h>
#include <rondo/server.h>
#include <rondo/stream.h>
#include <rondo/strings.h>
#include <rondo/subprocess.h>
#include <rondo/task.h>
#include <rondo/transport.h>

#endif
