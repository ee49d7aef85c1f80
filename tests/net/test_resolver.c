/* The resolver: names off the loop, addresses at once, and questions that nobody waits for. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/resolver.h"
#include "support/engine.h"
#include "support/names.h"

TestSuite(resolver, .timeout = 30);

static const struct engine_size tiny = { 8, 16, 16, 1024, 0, 0, 0, 0 };
static rondo_loop loop;

static void open_loop(void)
{
    char why[ENGINE_WHY_BYTES] = "";
    cr_assert_eq(loop_open(&loop, tested_engine(), &tiny, why), 0, "%s", why);
}

static void close_loop(void)
{
    cr_assert(eq(uint, loop.users, 0));
    loop_close(&loop);
    loop_free(&loop);
}

#define ON_A_LOOP .init = open_loop, .fini = close_loop

struct question {
    struct lookup lookup;
    unsigned answers;
    int error;
};

static void answered(struct lookup *lookup, int error)
{
    struct question *question = rondo_container_of(lookup, struct question, lookup);
    cr_assert(loop_is_here(&loop));
    question->answers++;
    question->error = error;
}

static int ask(struct question *question, const char *text)
{
    struct url url;
    char why[URL_WHY_BYTES];
    cr_assert_eq(url_parse(text, &url, why), 0);
    int error = resolver_ask(&question->lookup, &loop, &url, answered);
    cr_assert(eq(uint, question->answers, 0), "never from inside the call");
    memset(&url, 0xee, sizeof url); /* copied */
    return error;
}

static void assert_address(const struct lookup *lookup, unsigned index, const char *expected)
{
    char text[URL_TEXT_BYTES];
    cr_assert_lt(index, lookup->addresses.count);
    url_format(&lookup->addresses.at[index].any, text);
    cr_assert_str_eq(text, expected);
}

Test(resolver, addresses_are_known_at_once, ON_A_LOOP)
{
    struct question question = { 0 };
    cr_assert(eq(int, ask(&question, "tcp://127.0.0.1:7777"), 0));
    cr_assert(eq(uint, question.lookup.addresses.count, 1));
    assert_address(&question.lookup, 0, "tcp://127.0.0.1:7777");
    cr_assert(eq(int, ask(&question, "tcp://[::1]:7"), 0));
    assert_address(&question.lookup, 0, "tcp://[::1]:7");
    cr_assert(eq(int, ask(&question, "tcp://[fe80::1%lo]:7"), 0));
    assert_address(&question.lookup, 0, "tcp://[fe80::1%lo]:7");
    cr_assert(eq(int, ask(&question, "unix:///run/rondo.sock"), 0));
    cr_assert(eq(uint, question.lookup.addresses.count, 1));
    cr_assert_eq(question.lookup.addresses.at[0].any.sa_family, AF_UNIX);
    cr_assert(eq(uint, loop.users, 0));
    resolver_cancel(&question.lookup);
}

Test(resolver, a_name_is_answered_from_the_loop, ON_A_LOOP)
{
    struct question question = { 0 };
    names_add("two.test", "::1 127.0.0.1 ::1");
    cr_assert(eq(int, ask(&question, "tcp://two.test:80"), -EINPROGRESS));
    cr_assert(eq(uint, loop.users, 1));
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert(eq(uint, question.answers, 1));
    cr_assert(eq(int, question.error, 0));
    cr_assert(eq(uint, question.lookup.addresses.count, 2));
    assert_address(&question.lookup, 0, "tcp://[::1]:80");
    assert_address(&question.lookup, 1, "tcp://127.0.0.1:80");
}

Test(resolver, of_too_many_addresses_the_first_are_taken, ON_A_LOOP)
{
    struct question question = { 0 };
    char addresses[512] = "", last[64];
    for (unsigned i = 1; i <= URL_ADDRESSES_MAX + 4; i++)
        sprintf(addresses + strlen(addresses), " 127.0.0.%u", i);
    names_add("many.test", addresses);
    cr_assert(eq(int, ask(&question, "tcp://many.test:80"), -EINPROGRESS));
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert(eq(int, question.error, 0));
    cr_assert(eq(uint, question.lookup.addresses.count, URL_ADDRESSES_MAX));
    snprintf(last, sizeof last, "tcp://127.0.0.%d:80", URL_ADDRESSES_MAX);
    assert_address(&question.lookup, URL_ADDRESSES_MAX - 1, last);
}

static void assert_fails(int gai_error, int expected_error, const char *expected_why)
{
    struct question question = { 0 };
    names_fail("wrong.test", gai_error);
    cr_assert(eq(int, ask(&question, "tcp://wrong.test:80"), -EINPROGRESS));
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert(eq(uint, question.answers, 1));
    cr_assert(eq(int, question.error, expected_error));
    cr_assert_str_eq(question.lookup.why, expected_why);
}

Test(resolver, a_name_without_addresses_is_told_with_a_sentence, ON_A_LOOP)
{
    assert_fails(EAI_NONAME, -ENOENT, "can't resolve wrong.test: Name or service not known");
}

Test(resolver, a_silent_name_server_is_told_with_a_sentence, ON_A_LOOP)
{
    assert_fails(EAI_AGAIN, -EAGAIN, "can't resolve wrong.test: Temporary failure in name resolution");
}

Test(resolver, a_question_may_be_asked_again, ON_A_LOOP)
{
    struct question question = { 0 };
    names_add("one.test", "127.0.0.1");
    names_add("other.test", "127.0.0.2");
    cr_assert(eq(int, ask(&question, "tcp://one.test:80"), -EINPROGRESS));
    resolver_cancel(&question.lookup);
    cr_assert(eq(int, ask(&question, "tcp://other.test:80"), -EINPROGRESS));
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert(eq(uint, question.answers, 1));
    assert_address(&question.lookup, 0, "tcp://127.0.0.2:80");
}

Test(resolver, nobody_waits_for_a_silent_name_server)
{
    struct question *question = calloc(1, sizeof *question);
    names_hang("slow.test");
    open_loop();
    cr_assert(eq(int, ask(question, "tcp://slow.test:80"), -EINPROGRESS));
    names_wait_until_hung();
    resolver_cancel(&question->lookup);
    free(question);
    close_loop();
    memset(&loop, 0xee, sizeof loop);
    names_let_go();
    names_wait_until_left();
}

Test(resolver, a_slow_name_holds_up_no_other, ON_A_LOOP)
{
    struct question slow = { 0 }, quick = { 0 };
    names_hang("slow.test");
    names_add("quick.test", "127.0.0.1");
    cr_assert(eq(int, ask(&slow, "tcp://slow.test:80"), -EINPROGRESS));
    names_wait_until_hung();
    cr_assert(eq(int, ask(&quick, "tcp://quick.test:80"), -EINPROGRESS));
    while (quick.answers == 0)
        cr_assert_eq(loop_turn(&loop, ENGINE_FOREVER), 0);
    cr_assert(eq(uint, slow.answers, 0));
    names_let_go();
    cr_assert_eq(loop_run(&loop), 0);
    cr_assert(eq(int, slow.error, -EAGAIN));
}
