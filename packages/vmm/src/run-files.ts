/** What lies in the folder of one VM's run, whichever VMM it is. */
export const runFiles = {
  control: "qmp.sock",
  console: "console.log",
  log: "vmm.log",
} as const;
