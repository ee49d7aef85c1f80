/* What a run showed, for people or for programs. */
#ifndef LOAD_REPORT_H
#define LOAD_REPORT_H

#include "run.h"

void report_table(const struct run *run);
void report_json(const struct run *run); /* one object; null stands for what is not known */

#endif
