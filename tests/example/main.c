#include <rondo/rondo.h>

extern const rondo_line_protocol adder; /* protocol.c */

int main(int argc, char **argv)
{
    return rondo_main(argc, argv, &adder.protocol, "tcp://127.0.0.1:7777");
}
