// The subcommands of `duo`. Each file cmd_NAME.cc registers itself on the app; main runs the one that was chosen.
#pragma once

#include <functional>
#include <string>

#include "CLI/CLI.hpp"

namespace duo {

// What only main may look at: the environment and argv[0].
struct Launch {
  std::string program;  // path of this program, for finding the patterns beside it
  bool under_mpirun = false;
  int rank = 0;                 // as mpirun says, before MPI is started: only rank 0 prints
  int world = 1;                // likewise, how many ranks; 0: started as one of several, nobody says of how many
  std::function<int()> chosen;  // set by the subcommand that was parsed: runs it, returns the exit code
};

void AddBenchCommand(CLI::App& app, Launch& launch);
void AddBenchServe(CLI::App& bench, Launch& launch);  // one of its verbs
void AddGenerateCommand(CLI::App& app, Launch& launch);
void AddIdentifyCommand(CLI::App& app, Launch& launch);
void AddInfoCommand(CLI::App& app, Launch& launch);
void AddPlanCommand(CLI::App& app, Launch& launch);
void AddTokenizeCommand(CLI::App& app, Launch& launch);
void AddClientCommand(CLI::App& app, Launch& launch);

}  // namespace duo
