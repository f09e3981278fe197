/* Owns the words behind `hone model`; cmd_model.c chooses among them. argv[0] is the word. */
#ifndef HONE_CLI_MODEL_COMMAND_H
#define HONE_CLI_MODEL_COMMAND_H

int model_init_command(int argc, char **argv);
int model_inspect_command(int argc, char **argv);
int model_check_command(int argc, char **argv);
int model_convert_command(int argc, char **argv);

#endif
