/* What this kernel is taken to be able to do. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "core/kernel.h"

static unsigned features_here(void)
{
    unsigned found = 0;
    for (enum kernel_feature feature = 0; feature < KERNEL_FEATURES; feature++)
        found |= (unsigned)kernel_has(feature) << feature;
    return found;
}

Test(kernel, what_rondo_needs_anyway_is_there)
{
    unsetenv("RONDO_KERNEL_LACKS");
    cr_assert(kernel_has(KERNEL_QUIET_SENDS), "since 5.17, and rondo needs 6.1");
}

Test(kernel, each_feature_can_be_masked_by_its_name)
{
    unsetenv("RONDO_KERNEL_LACKS");
    unsigned all = features_here();
    for (enum kernel_feature feature = 0; feature < KERNEL_FEATURES; feature++) {
        setenv("RONDO_KERNEL_LACKS", kernel_feature_name(feature), 1);
        cr_assert(eq(uint, features_here(), all & ~(1u << feature)));
    }
}

Test(kernel, several_and_all_can_be_masked)
{
    unsetenv("RONDO_KERNEL_LACKS");
    unsigned all = features_here();
    setenv("RONDO_KERNEL_LACKS", "limited-multishot,quiet-sends", 1);
    cr_assert(eq(uint, features_here(), all & ~(1u << KERNEL_LIMITED_MULTISHOT | 1u << KERNEL_QUIET_SENDS)));
    setenv("RONDO_KERNEL_LACKS", "all", 1);
    cr_assert(eq(uint, features_here(), 0));
}

Test(kernel, a_part_of_a_name_masks_nothing)
{
    unsetenv("RONDO_KERNEL_LACKS");
    unsigned all = features_here();
    setenv("RONDO_KERNEL_LACKS", "quiet,quiet-sends-not,al", 1);
    cr_assert(eq(uint, features_here(), all));
}
