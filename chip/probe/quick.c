/* The shortest loader: says that it runs, and stops. For measuring boots. */
#include "probe.h"

void probe_main(void) {
  port_call(CMD_STAGE, STAGE_LOADER_RUNS, 0, 0, 0, 0);
  port_call(CMD_STOP, 0, 0, 0, 0, 0);
}
