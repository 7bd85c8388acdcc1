/** The package has no types. It rejects with what the program wrote, a string. */
declare module "systemd-notify" {
  export default function notify(options: { ready?: boolean; status?: string; pid?: number }): Promise<unknown>;
}
