/* A room, step 1: what a visitor says comes back.    try: nc localhost 7777 */
#include <rondo/rondo.h>

static const rondo_protocol room = { .name = "room", .data_received = rondo_write };

int main(int argc, char **argv)
{
    return rondo_main(argc, argv, &room, "tcp://127.0.0.1:7777");
}
