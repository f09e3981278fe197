/* Owns `hone data check`: what a file of rows holds, and what the policy would see of it. */
#ifndef HONE_CLI_DATA_CHECK_H
#define HONE_CLI_DATA_CHECK_H

/* argv[0] = "check". Returns the process exit code. */
int data_check(int argc, char **argv);

#endif
