#include "net/url.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

TestSuite(url, .timeout = 10);

static struct url parse(const char *text)
{
    struct url url;
    char why[URL_WHY_BYTES] = "";
    cr_assert(zero(int, url_parse(text, &url, why)), "%s: %s", text, why);
    cr_assert(eq(str, why, ""), "%s", text);
    return url;
}

static void assert_parsed(const char *text, const char *host, unsigned port)
{
    struct url url = parse(text);
    cr_assert(eq(str, url.host, (char *)host), "%s", text);
    cr_assert(eq(uint, url.port, port), "%s", text);
}

static void assert_refused(const char *text, const char *expected)
{
    struct url url;
    char why[URL_WHY_BYTES] = "";
    cr_assert(eq(int, url_parse(text, &url, why), -EINVAL), "%s", text);
    cr_assert(eq(str, why, (char *)expected), "%s", text);
}

/* What url_parse takes */

Test(url, host_is_a_name)
{
    assert_parsed("tcp://localhost:7777", "localhost", 7777);
    assert_parsed("tcp://db-1.example_net.:7777", "db-1.example_net.", 7777);
    assert_parsed("tcp://3com:7777", "3com", 7777);
    assert_parsed("tcp://1.2.3.4.example:7777", "1.2.3.4.example", 7777);
}

Test(url, host_is_an_ipv4_address)
{
    assert_parsed("tcp://127.0.0.1:7777", "127.0.0.1", 7777);
    assert_parsed("tcp://0.0.0.0:7777", "0.0.0.0", 7777);
    assert_parsed("tcp://255.255.255.255:7777", "255.255.255.255", 7777);
}

Test(url, host_is_an_ipv6_address_in_brackets)
{
    assert_parsed("tcp://[::]:7777", "::", 7777);
    assert_parsed("tcp://[::1]:7777", "::1", 7777);
    assert_parsed("tcp://[2001:DB8:0:0:0:0:0:1]:7777", "2001:DB8:0:0:0:0:0:1", 7777);
    assert_parsed("tcp://[::ffff:127.0.0.1]:7777", "::ffff:127.0.0.1", 7777);
}

Test(url, ipv6_address_has_an_interface)
{
    assert_parsed("tcp://[fe80::1%eth0.100]:7777", "fe80::1%eth0.100", 7777);
    assert_parsed("tcp://[fe80::1%2]:7777", "fe80::1%2", 7777);
    assert_parsed("tcp://[fe80::1%a-name-15-bytes]:7777", "fe80::1%a-name-15-bytes", 7777);
}

Test(url, port_is_from_0_to_65535)
{
    assert_parsed("tcp://localhost:0", "localhost", 0);
    assert_parsed("tcp://localhost:1", "localhost", 1);
    assert_parsed("tcp://localhost:65535", "localhost", 65535);
    assert_parsed("tcp://localhost:0000000000000080", "localhost", 80);
}

static const char *url_with_host_of(size_t size)
{
    static char text[1024];
    memset(text, 0, sizeof text);
    strcpy(text, "tcp://");
    memset(text + strlen("tcp://"), 'h', size);
    return strcat(text, ":7777");
}

Test(url, host_has_up_to_255_bytes)
{
    struct url url = parse(url_with_host_of(255));
    cr_assert(eq(sz, strlen(url.host), 255));

    assert_refused(url_with_host_of(256), "the host is longer than 255 bytes");
    assert_refused(url_with_host_of(1000), "the host is longer than 255 bytes");
}

/* What it refuses, and what it says */

Test(url, a_missing_scheme_is_refused)
{
    static const char *const texts[] = { "",
                                         "localhost",
                                         "localhost:7777",
                                         "127.0.0.1:7777",
                                         ":7777",
                                         "[::1]:1",
                                         "://localhost:1",
                                         "//localhost:1",
                                         "tcp:localhost:1",
                                         "tcp:/h:1",
                                         "tcp//localhost:1",
                                         "t cp://h:1",
                                         " tcp://h:1",
                                         "tcp:",
                                         "tcp:/" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "there is no scheme before the host: write tcp://127.0.0.1:7777");
}

Test(url, an_unknown_scheme_is_refused)
{
    assert_refused("http://localhost:80", "there is no scheme 'http': write tcp://127.0.0.1:7777");
    assert_refused("TCP://localhost:80", "there is no scheme 'TCP': write tcp://127.0.0.1:7777");
    assert_refused("tcp4://localhost:80", "there is no scheme 'tcp4': write tcp://127.0.0.1:7777");
    assert_refused("tc://localhost:80", "there is no scheme 'tc': write tcp://127.0.0.1:7777");
    assert_refused("a-scheme-of-more-than-32-characters://h:1",
                   "there is no scheme 'a-scheme-of-more-than-32-charact': write tcp://127.0.0.1:7777");
}

Test(url, a_scheme_of_another_version_is_refused)
{
    assert_refused("tls://127.0.0.1:443?cert=c&key=k",
                   "'tls' is not in this version of rondo: tcp, udp, unix, unixgram and fd are");
}

Test(url, addresses_of_datagrams_are_as_those_of_streams)
{
    struct url url = parse("udp://[::1]:53");
    cr_assert(eq(int, url.scheme, URL_UDP));
    cr_assert(eq(str, url.host, "::1"));
    cr_assert(eq(u16, url.port, 53));
    cr_assert(url_is_of_datagrams(&url));
    url = parse("unixgram:///run/log.sock?mode=0620");
    cr_assert(eq(int, url.scheme, URL_UNIXGRAM));
    cr_assert(eq(str, url.local.local.sun_path, "/run/log.sock"));
    cr_assert(eq(int, url.mode, 0620));
    cr_assert(url_is_of_datagrams(&url));
    url = parse("tcp://127.0.0.1:1");
    cr_assert_not(url_is_of_datagrams(&url));
    assert_refused("udp://127.0.0.1", "there is no port after the host: write udp://127.0.0.1:7777");
    assert_refused("udp://::1:7",
                   "a host with a ':' is an IPv6 address, in brackets: write udp://[::1]:7777");
    assert_refused("udp://127.0.0.1:7?x=y", "there is no option 'x': udp has none");
    assert_refused("udps://127.0.0.1:7", "there is no scheme 'udps': write tcp://127.0.0.1:7777");
}

Test(url, an_empty_host_is_refused)
{
    static const char *const texts[] = { "tcp://",  "tcp://:", "tcp://:7777", "tcp:///7777", "tcp://?x=y",
                                         "tcp:///", "tcp://#", "tcp://[]:1",  "tcp://[]" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "there is no host: for all addresses of this machine write 0.0.0.0 or [::]");
}

Test(url, a_character_that_no_host_has_is_refused)
{
    assert_refused("tcp://*:7777", "'*' can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://user@host:7777", "'@' can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://my host:7777", "' ' can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://host]:7777", "']' can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://host%lo:7777", "'%' can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://a\nb:7777", "byte 0x0a can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://\x7f:7777", "byte 0x7f can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://h\xc3\xb6st:7777",
                   "byte 0xc3 can't be in a host: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://[fe80::1%e/h]:1",
                   "the bracket before the IPv6 address is not closed: write tcp://[::1]:7777");
    assert_refused("tcp://[fe80::1%e h]:1",
                   "' ' can't be in an interface: letters, digits, '-', '.' and '_' can");
    assert_refused("tcp://[fe80::1%e%h]:1",
                   "'%' can't be in an interface: letters, digits, '-', '.' and '_' can");
}

Test(url, an_ipv4_address_that_is_none_is_refused)
{
    static const char *const texts[] = { "tcp://256.0.0.1:1",  "tcp://127.1:1",      "tcp://1:1",
                                         "tcp://1.2.3.4.5:1",  "tcp://1.2.3.:1",     "tcp://0x7f.0.0.1:1",
                                         "tcp://0x7f000001:1", "tcp://127.0.0.01:1", "tcp://.:1" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i],
                       "that is no IPv4 address: it is four numbers from 0 to 255, as in 127.0.0.1");
}

Test(url, an_ipv6_address_without_brackets_is_refused)
{
    static const char *const texts[] = { "tcp://::1:7777",          "tcp://::",          "tcp://:::7777",
                                         "tcp://fe80::1%eth0:7777", "tcp://2001:db8::1", "tcp://host:80:90",
                                         "tcp://host::90" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "a host with a ':' is an IPv6 address, in brackets: write tcp://[::1]:7777");
}

Test(url, brackets_around_anything_else_are_refused)
{
    static const char *const texts[] = {
        "tcp://[127.0.0.1]:7777", "tcp://[localhost]:7777",
        "tcp://[::1::]:7777",     "tcp://[%eth0]:7777",
        "tcp://[[::1]:7777",      "tcp://[0000000000000000000000000000000000000000000000000::1]:7777"
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "there is no IPv6 address in the brackets");
}

Test(url, a_bracket_that_is_not_closed_is_refused)
{
    static const char *const texts[] = { "tcp://[", "tcp://[::1", "tcp://[::1:7777", "tcp://[::1/]:7777" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "the bracket before the IPv6 address is not closed: write tcp://[::1]:7777");
}

Test(url, what_is_not_a_port_behind_a_bracket_is_refused)
{
    assert_refused("tcp://[::1]7777", "the bracket is followed by ':' and the port: write tcp://[::1]:7777");
    assert_refused("tcp://[::1]]:7777",
                   "the bracket is followed by ':' and the port: write tcp://[::1]:7777");
}

Test(url, an_interface_must_be_one)
{
    assert_refused("tcp://[fe80::1%]:7777", "there is no interface after the '%'");
    assert_refused("tcp://[fe80::1%a-name-of16bytes]:7777",
                   "the interface after the '%' is longer than 15 bytes");
}

Test(url, a_missing_port_is_refused)
{
    static const char *const texts[] = { "tcp://127.0.0.1",    "tcp://localhost:",    "tcp://localhost/",
                                         "tcp://localhost:/x", "tcp://[::1]",         "tcp://[::1]:",
                                         "tcp://[::1]/:80",    "tcp://localhost?a=b", "tcp://h#",
                                         "tcp://localhost:?a" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "there is no port after the host: write tcp://127.0.0.1:7777");
}

Test(url, a_port_that_is_no_decimal_number_is_refused)
{
    static const char *const texts[] = { "tcp://h:http", "tcp://h:80x", "tcp://h:0x50",
                                         "tcp://h:+80",  "tcp://h:-1",  "tcp://h: 80",
                                         "tcp://h:80 ",  "tcp://h:8_0", "tcp://h:80.0" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "the port is not a decimal number");
}

Test(url, a_port_out_of_range_is_refused)
{
    assert_refused("tcp://h:65536", "the port is not from 0 to 65535");
    assert_refused("tcp://h:4294967376", "the port is not from 0 to 65535");
    assert_refused("tcp://h:99999999999999999999999999", "the port is not from 0 to 65535");
}

Test(url, junk_after_the_port_is_refused)
{
    static const char *const texts[] = { "tcp://h:1/", "tcp://h:1/path", "tcp://h:1#x", "tcp://h:1?",
                                         "tcp://h:1?=y" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        assert_refused(texts[i], "nothing may follow the port");
}

Test(url, an_option_is_refused_by_name)
{
    assert_refused("tcp://h:1?x=y", "there is no option 'x': tcp has none");
    assert_refused("tcp://[::1]:1?reuse_port", "there is no option 'reuse_port': tcp has none");
    assert_refused("tcp://h:1?an-option-of-more-than-32-characters&b",
                   "there is no option 'an-option-of-more-than-32-charac': tcp has none");
}

/* Unix sockets */

static struct url_address parse_unix(const char *text, int mode)
{
    struct url url = parse(text);
    cr_assert(eq(int, url.scheme, URL_UNIX));
    cr_assert(eq(int, url.mode, mode), "%s", text);
    return url.local;
}

static void assert_path(const char *text, const char *path)
{
    struct url_address address = parse_unix(text, URL_NO_MODE);
    cr_assert(eq(int, address.any.sa_family, AF_UNIX));
    cr_assert(eq(str, address.local.sun_path, (char *)path));
    cr_assert(eq(uint, address.size, offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1));
}

Test(url, a_path_is_absolute_and_may_be_encoded)
{
    assert_path("unix:///run/rondo.sock", "/run/rondo.sock");
    assert_path("unix:///", "/");
    assert_path("unix:///a%3Fb%23c%25d%2fe", "/a?b#c%d/e");
    assert_path("unix:///h\xc3\xb6he & tiefe:@=1", "/h\xc3\xb6he & tiefe:@=1");
    assert_path("unix:///a%0Ab", "/a\nb");
}

Test(url, a_name_behind_an_at_sign_is_abstract)
{
    struct url_address address = parse_unix("unix://@a%00b/c", URL_NO_MODE);
    cr_assert(eq(uint, address.size, offsetof(struct sockaddr_un, sun_path) + 6));
    cr_assert(zero(int, memcmp(address.local.sun_path, "\0a\0b/c", 6)));
    assert_refused("unix://@",
                   "there is no name behind the '@': write unix:///run/name.sock or unix://@name");
    assert_refused("unix://@a?mode=600", "an abstract name has no mode: whoever knows it may connect");
}

Test(url, a_mode_is_octal)
{
    parse_unix("unix:///s?mode=660", 0660);
    parse_unix("unix:///s?mode=0660", 0660);
    parse_unix("unix:///s?mode=000", 0);
    static const char *const wrong[] = { "",    "6",    "66",    "6600", "00660", "0668", "rw-",
                                         "u+w", "-660", "0x1ff", "660 ", "1777",  "0o66" };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "unix:///s?mode=%s", wrong[i]);
        assert_refused(
            text, "the mode is not three octal digits, with or without a 0 before them: write mode=0660");
    }
    assert_refused("unix:///s?mode=660&mode=660", "the mode is there twice");
}

Test(url, what_is_no_path_is_refused)
{
    static const char no_path[] = "there is no path: write unix:///run/name.sock or unix://@name";
    static const char relative[] = "the path is not absolute: write unix:///run/name.sock or unix://@name";
    static const char digits[] =
        "a '%' in a path is followed by two hexadecimal digits: %25 is the '%' itself";
    assert_refused("unix://", no_path);
    assert_refused("unix://?mode=660", no_path);
    assert_refused("unix://run/s", relative);
    assert_refused("unix://./s", relative);
    assert_refused("unix://%2Frun", relative);
    assert_refused("unix:///a%", digits);
    assert_refused("unix:///a%2", digits);
    assert_refused("unix:///a%2g", digits);
    assert_refused("unix:///a%?mode=600", digits);
    assert_refused("unix:///a%00", "there can't be a NUL in a path");
    assert_refused("unix:///a\nb", "byte 0x0a can't stand in a path as it is: write %0A");
    assert_refused("unix:///a\x7f", "byte 0x7f can't stand in a path as it is: write %7F");
    assert_refused("unix:///a#b", "nothing may follow the path");
    assert_refused("unix:///a?", "nothing may follow the path");
    assert_refused("unix:///a?mode=660#b", "nothing may follow the mode");
    assert_refused("unix:///a?mode=660&", "nothing may follow the mode");
    assert_refused("unix:///a?mode", "there is no option 'mode': unix has mode");
    assert_refused("unix:///a?backlog=3", "there is no option 'backlog': unix has mode");
    assert_refused("unix:///a?mode=660&backlog=3", "there is no option 'backlog': unix has mode");
}

Test(url, a_path_and_a_name_have_up_to_107_bytes)
{
    char text[256] = "unix:///", name[256] = "unix://@";
    memset(text + 8, 'p', 106);
    memset(name + 8, 'n', 107);
    cr_assert(eq(sz, strlen(parse_unix(text, URL_NO_MODE).local.sun_path), 107));
    cr_assert(eq(uint, parse_unix(name, URL_NO_MODE).size, sizeof(struct sockaddr_un)));
    strcat(text, "%41");
    strcat(name, "n");
    assert_refused(text, "the path is longer than 107 bytes");
    assert_refused(name, "the name behind the '@' is longer than 107 bytes");
}

static void assert_unix_round_trip(const char *text, const char *expected)
{
    char formatted[URL_TEXT_BYTES];
    struct url url = parse(text);
    struct url_addresses addresses;
    char why[URL_WHY_BYTES];
    cr_assert(zero(int, url_resolve(&url, &addresses, why)));
    cr_assert(eq(uint, addresses.count, 1));
    url_format_address(&addresses.at[0], formatted);
    cr_assert(eq(str, formatted, (char *)expected), "%s", text);
}

Test(url, unix_addresses_go_round)
{
    assert_unix_round_trip("unix:///run/s.sock?mode=660", "unix:///run/s.sock");
    assert_unix_round_trip("unix:///a%3fb%23%25%0a%20~", "unix:///a%3Fb%23%25%0A%20~");
    assert_unix_round_trip("unix:///h\xc3\xb6he", "unix:///h%C3%B6he");
    assert_unix_round_trip("unix://@name", "unix://@name");
    assert_unix_round_trip("unix://@a%00@/", "unix://@a%00@/");
}

Test(url, the_longest_unix_address_fits)
{
    char text[512] = "unix://@", formatted[URL_TEXT_BYTES];
    for (unsigned i = 0; i < 107; i++)
        strcat(text, "%FF");
    struct url_address address = parse_unix(text, URL_NO_MODE);
    url_format_address(&address, formatted);
    cr_assert(eq(str, formatted, text));
}

/* What getsockname gives, too: a path without its NUL, and nothing. */
Test(url, an_unusual_unix_address_is_written)
{
    char text[URL_TEXT_BYTES];
    struct url_address address = { .size = offsetof(struct sockaddr_un, sun_path) + 2 };
    address.local = (struct sockaddr_un){ .sun_family = AF_UNIX, .sun_path = "/s-and-more" };
    url_format_address(&address, text);
    cr_assert(eq(str, text, "unix:///s"));
    address.size = offsetof(struct sockaddr_un, sun_path);
    url_format_address(&address, text);
    cr_assert(eq(str, text, "unix://"));
}

/* Descriptors */

Test(url, a_descriptor_is_a_number)
{
    cr_assert(eq(int, parse("fd://3").scheme, URL_FD));
    cr_assert(eq(int, parse("fd://3").fd, 3));
    cr_assert(eq(int, parse("fd://0").fd, 0));
    cr_assert(eq(int, parse("fd://1048576").fd, 1048576));
    static const char *const wrong[] = { "fd://",   "fd://x",        "fd://-1", "fd://3x",
                                         "fd:// 3", "fd://99999999", "fd://?a" };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_refused(wrong[i], "the descriptor is not a decimal number: write fd://3");
    assert_refused("fd://3/", "nothing may follow the descriptor");
    assert_refused("fd://3?mode=660", "there is no option 'mode': fd has none");

    struct url url = parse("fd://3");
    struct url_addresses addresses;
    char why[URL_WHY_BYTES];
    cr_assert(eq(int, url_resolve(&url, &addresses, why), -EINVAL));
    cr_assert(eq(str, why, "a descriptor is no address: fd:// is for who listens"));
}

/* Addresses */

Test(url, what_needs_no_looking_up_is_resolved_at_once)
{
    struct url_addresses addresses;
    char why[URL_WHY_BYTES] = "";
    struct url url = parse("tcp://LOCALHOST:7");
    cr_assert(zero(int, url_resolve_now(&url, &addresses, why)));
    cr_assert(eq(uint, addresses.count, 2));
    cr_assert(eq(uint, ntohs(*url_port_of(&addresses.at[0])), 7));
    cr_assert(eq(uint, ntohs(*url_port_of(&addresses.at[1])), 7));
    url = parse("tcp://[::1]:7");
    cr_assert(zero(int, url_resolve_now(&url, &addresses, why)));
    cr_assert(eq(uint, addresses.count, 1));
    url = parse("unix:///s");
    cr_assert(zero(int, url_resolve_now(&url, &addresses, why)));
    cr_assert(eq(uint, addresses.count, 1));
    cr_assert(eq(ptr, url_port_of(&addresses.at[0]), NULL));
    url = parse("tcp://a.example:7");
    cr_assert(eq(int, url_resolve_now(&url, &addresses, why), -EINVAL));
    cr_assert(
        eq(str, why, "a.example is a name, and looking it up would hold up the shard: write its address"));
}

static struct url_addresses resolve(const char *text)
{
    struct url url = parse(text);
    struct url_addresses addresses;
    char why[URL_WHY_BYTES] = "";
    cr_assert(zero(int, url_resolve(&url, &addresses, why)), "%s: %s", text, why);
    cr_assert(eq(str, why, ""), "%s", text);
    return addresses;
}

static void assert_round_trip(const char *text, const char *expected)
{
    struct url_addresses addresses = resolve(text);
    char formatted[URL_TEXT_BYTES];
    cr_assert(eq(uint, addresses.count, 1), "%s", text);
    url_format(&addresses.at[0].any, formatted);
    cr_assert(eq(str, formatted, (char *)expected), "%s", text);
}

Test(url, addresses_go_round)
{
    assert_round_trip("tcp://127.0.0.1:7777", "tcp://127.0.0.1:7777");
    assert_round_trip("tcp://0.0.0.0:0", "tcp://0.0.0.0:0");
    assert_round_trip("tcp://255.255.255.255:65535", "tcp://255.255.255.255:65535");
    assert_round_trip("tcp://[::1]:7777", "tcp://[::1]:7777");
    assert_round_trip("tcp://[::]:65535", "tcp://[::]:65535");
    assert_round_trip("tcp://[2001:DB8:0:0:0:0:0:1]:080", "tcp://[2001:db8::1]:80");
    assert_round_trip("tcp://[::ffff:127.0.0.1]:1", "tcp://[::ffff:127.0.0.1]:1");
}

Test(url, interface_goes_round)
{
    char name[IF_NAMESIZE], text[URL_TEXT_BYTES], numbered[URL_TEXT_BYTES];
    struct if_nameindex *interfaces = if_nameindex();
    cr_assert(ne(ptr, interfaces, NULL));
    if (interfaces[0].if_index == 0)
        cr_skip("no network interface");
    strcpy(name, interfaces[0].if_name);
    snprintf(text, sizeof text, "tcp://[fe80::1%%%s]:7777", name);
    snprintf(numbered, sizeof numbered, "tcp://[fe80::1%%%u]:7777", interfaces[0].if_index);
    if_freenameindex(interfaces);

    assert_round_trip(text, text);
    assert_round_trip(numbered, text);
}

Test(url, address_has_what_bind_takes)
{
    struct url_addresses v4 = resolve("tcp://127.0.0.1:7777"), v6 = resolve("tcp://[::1]:7777");

    cr_assert(eq(uint, v4.at[0].size, sizeof(struct sockaddr_in)));
    cr_assert(eq(int, v4.at[0].any.sa_family, AF_INET));
    cr_assert(eq(uint, ntohs(v4.at[0].v4.sin_port), 7777));
    cr_assert(eq(uint, v6.at[0].size, sizeof(struct sockaddr_in6)));
    cr_assert(eq(int, v6.at[0].any.sa_family, AF_INET6));
    cr_assert(eq(uint, ntohs(v6.at[0].v6.sin6_port), 7777));
}

Test(url, a_name_resolves_to_different_addresses)
{
    struct url_addresses addresses = resolve("tcp://localhost:7777");

    cr_assert(addresses.count >= 1);
    for (unsigned i = 0; i < addresses.count; i++) {
        for (unsigned j = 0; j < i; j++) {
            char one[URL_TEXT_BYTES], other[URL_TEXT_BYTES];
            url_format(&addresses.at[i].any, one);
            url_format(&addresses.at[j].any, other);
            cr_assert(ne(str, one, other));
        }
    }
}

/* Without asking a name server: an interface that doesn't exist. */
Test(url, a_host_that_does_not_resolve_is_named)
{
    struct url url = parse("tcp://[fe80::1%nosuchinterface]:7777");
    struct url_addresses addresses;
    char why[URL_WHY_BYTES] = "";

    cr_assert(eq(int, url_resolve(&url, &addresses, why), -ENOENT));
    cr_assert(eq(str, why, "can't resolve fe80::1%nosuchinterface: Name or service not known"));
}

Test(url, a_name_longer_than_dns_allows_does_not_resolve)
{
    struct url url = parse(url_with_host_of(255));
    struct url_addresses addresses;
    char why[URL_WHY_BYTES] = "";

    cr_assert(lt(int, url_resolve(&url, &addresses, why), 0));
    cr_assert(zero(int, strncmp(why, "can't resolve hhh", strlen("can't resolve hhh"))));
    cr_assert(ne(ptr, strstr(why, "hhh: "), NULL));
}

#define NO_INTERFACE 4000000000u /* a number that none has, so it is written as it is */

static struct sockaddr_in ipv4(const char *host, uint16_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    cr_assert(eq(int, inet_pton(AF_INET, host, &address.sin_addr), 1));
    return address;
}

static struct sockaddr_in6 ipv6(const char *host, uint16_t port, uint32_t scope)
{
    struct sockaddr_in6 address = { .sin6_family = AF_INET6,
                                    .sin6_port = htons(port),
                                    .sin6_scope_id = scope };
    cr_assert(eq(int, inet_pton(AF_INET6, host, &address.sin6_addr), 1));
    return address;
}

Test(url, addresses_are_added_once_and_in_order)
{
    struct url_addresses addresses = { .count = 0 };
    struct sockaddr_in v4[] = { ipv4("10.0.0.2", 1), ipv4("10.0.0.1", 1), ipv4("10.0.0.2", 1),
                                ipv4("10.0.0.2", 2) };
    struct sockaddr_in6 v6[] = { ipv6("fe80::1", 1, NO_INTERFACE), ipv6("fe80::1", 1, NO_INTERFACE + 1),
                                 ipv6("fe80::1", 1, NO_INTERFACE), ipv6("fe80::2", 1, NO_INTERFACE),
                                 ipv6("fe80::2", 2, NO_INTERFACE) };
    memset(v4[2].sin_zero, 1, sizeof v4[2].sin_zero); /* padding is no difference */
    v6[2].sin6_flowinfo = 1;

    for (size_t i = 0; i < sizeof v4 / sizeof v4[0]; i++)
        cr_assert(zero(int, url_addresses_add(&addresses, (struct sockaddr *)&v4[i])));
    for (size_t i = 0; i < sizeof v6 / sizeof v6[0]; i++)
        cr_assert(zero(int, url_addresses_add(&addresses, (struct sockaddr *)&v6[i])));

    static const char *const expected[] = { "tcp://10.0.0.2:1",
                                            "tcp://10.0.0.1:1",
                                            "tcp://10.0.0.2:2",
                                            "tcp://[fe80::1%4000000000]:1",
                                            "tcp://[fe80::1%4000000001]:1",
                                            "tcp://[fe80::2%4000000000]:1",
                                            "tcp://[fe80::2%4000000000]:2" };
    cr_assert(eq(uint, addresses.count, 7));
    for (unsigned i = 0; i < addresses.count; i++) {
        char text[URL_TEXT_BYTES];
        url_format(&addresses.at[i].any, text);
        cr_assert(eq(str, text, (char *)expected[i]));
    }
}

Test(url, addresses_beyond_the_bound_are_refused_but_not_repeated_ones)
{
    struct url_addresses addresses = { .count = 0 };
    struct sockaddr_in address;
    for (uint16_t port = 1; port <= URL_ADDRESSES_MAX; port++) {
        address = ipv4("10.0.0.1", port);
        cr_assert(zero(int, url_addresses_add(&addresses, (struct sockaddr *)&address)));
    }

    cr_assert(zero(int, url_addresses_add(&addresses, (struct sockaddr *)&address)));
    address = ipv4("10.0.0.1", URL_ADDRESSES_MAX + 1);
    cr_assert(eq(int, url_addresses_add(&addresses, (struct sockaddr *)&address), -E2BIG));
    cr_assert(eq(uint, addresses.count, URL_ADDRESSES_MAX));
}

Test(url, the_longest_address_fits)
{
    struct sockaddr_in6 address = ipv6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, UINT32_MAX);
    char text[URL_TEXT_BYTES];

    url_format((struct sockaddr *)&address, text);

    cr_assert(eq(str, text, "tcp://[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535"));
}
