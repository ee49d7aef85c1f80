// Asio: each connection reads some, writes all of it, and reads again ("Tutorial", "A TCP echo server").
#include "common.h"

#include <asio.hpp>
#include <memory>
#include <string>

using Socket = asio::generic::stream_protocol::socket;

class Connection : public std::enable_shared_from_this<Connection>
{
public:
    explicit Connection(Socket socket) : socket_(std::move(socket))
    {
    }

    void read()
    {
        socket_.async_read_some(asio::buffer(buffer_), [self = shared_from_this()](asio::error_code error, size_t size) {
            if (error)
                return; // the last reference goes, and the socket with it
            if (options.lines)
                self->cut(size);
            else
                self->write(self->buffer_, size);
        });
    }

private:
    void write(const char *data, size_t size)
    {
        asio::async_write(socket_, asio::buffer(data, size),
                          [self = shared_from_this()](asio::error_code error, size_t) {
                              if (!error)
                                  self->read();
                          });
    }

    void cut(size_t size)
    {
        lines_.append(buffer_, size);
        write_line();
    }

    // One write for each line, one behind the other.
    void write_line()
    {
        size_t end = lines_.find('\n', sent_);
        if (end == std::string::npos) {
            lines_.erase(0, sent_);
            sent_ = 0;
            read();
            return;
        }
        asio::async_write(socket_, asio::buffer(lines_.data() + sent_, end + 1 - sent_),
                          [self = shared_from_this(), end](asio::error_code error, size_t) {
                              self->sent_ = end + 1;
                              if (!error)
                                  self->write_line();
                          });
    }

    Socket socket_;
    char buffer_[READ_BYTES];
    std::string lines_;
    size_t sent_ = 0;
};

template <typename Acceptor> static void accept(Acceptor &acceptor)
{
    acceptor.async_accept([&acceptor](asio::error_code error, typename Acceptor::protocol_type::socket socket) {
        if (!error)
            std::make_shared<Connection>(Socket(std::move(socket)))->read();
        accept(acceptor);
    });
}

static void serve(int listener)
{
    asio::io_context context(1);
    if (options.unix_path) {
        asio::local::stream_protocol::acceptor acceptor(context, asio::local::stream_protocol(), listener);
        accept(acceptor);
        context.run();
    } else {
        asio::ip::tcp::acceptor acceptor(context, asio::ip::tcp::v4(), listener);
        accept(acceptor);
        context.run();
    }
}

int main(int argc, char **argv)
{
    return peer_main(argc, argv, serve);
}
