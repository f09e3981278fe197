/* Owns the list of subcommands: `hone NAME ...` calls cmd_NAME with argv[0] = NAME. Each returns
 * the process exit code of data-and-ui.md 6. main.c holds the table with one line of help for each.
 */
#ifndef HONE_CLI_COMMANDS_H
#define HONE_CLI_COMMANDS_H

int cmd_run(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_trainer(int argc, char **argv);
int cmd_rollout(int argc, char **argv);
int cmd_reward(int argc, char **argv);
int cmd_sft(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_model(int argc, char **argv);
int cmd_data(int argc, char **argv);
int cmd_tok(int argc, char **argv);
int cmd_db(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_config(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_version(int argc, char **argv);

#endif
