CREATE TABLE `api_tokens` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`name` text NOT NULL,
	`prefix` text NOT NULL,
	`token_hash` text NOT NULL,
	`scopes` text NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer,
	`revoked_at` integer,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `api_tokens_token` ON `api_tokens` (`token_hash`);--> statement-breakpoint
CREATE INDEX `api_tokens_user` ON `api_tokens` (`user_id`);--> statement-breakpoint
CREATE TABLE `audit_log` (
	`id` text PRIMARY KEY NOT NULL,
	`at` integer NOT NULL,
	`actor` text NOT NULL,
	`action` text NOT NULL,
	`subject` text NOT NULL,
	`before` text,
	`after` text,
	`request_id` text
);
--> statement-breakpoint
CREATE INDEX `audit_subject` ON `audit_log` (`subject`);--> statement-breakpoint
CREATE INDEX `audit_actor` ON `audit_log` (`actor`);--> statement-breakpoint
CREATE TABLE `groups` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`name` text NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `groups_user_name` ON `groups` (`user_id`,`name`);--> statement-breakpoint
CREATE TABLE `idempotency_keys` (
	`user_id` text NOT NULL,
	`key` text NOT NULL,
	`request_hash` text NOT NULL,
	`lease_until` integer NOT NULL,
	`status` integer,
	`response` text,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `idempotency_keys_key` ON `idempotency_keys` (`user_id`,`key`);--> statement-breakpoint
CREATE TABLE `ledger_accounts` (
	`id` text PRIMARY KEY NOT NULL,
	`balance_fen` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `ledger_entries` (
	`id` text PRIMARY KEY NOT NULL,
	`transfer_id` text NOT NULL,
	`account_id` text NOT NULL,
	`amount_fen` integer NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`account_id`) REFERENCES `ledger_accounts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `entries_account` ON `ledger_entries` (`account_id`,`id`);--> statement-breakpoint
CREATE INDEX `entries_transfer` ON `ledger_entries` (`transfer_id`);--> statement-breakpoint
CREATE TABLE `rate_windows` (
	`key` text PRIMARY KEY NOT NULL,
	`window_start` integer NOT NULL,
	`count` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `sessions` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`token_hash` text NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer NOT NULL,
	`revoked_at` integer,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `sessions_token` ON `sessions` (`token_hash`);--> statement-breakpoint
CREATE INDEX `sessions_user` ON `sessions` (`user_id`);--> statement-breakpoint
CREATE TABLE `transfers` (
	`id` text PRIMARY KEY NOT NULL,
	`cause_key` text NOT NULL,
	`note` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `transfers_cause` ON `transfers` (`cause_key`);--> statement-breakpoint
CREATE TABLE `users` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`role` text NOT NULL,
	`state` text NOT NULL,
	`certification` text NOT NULL,
	`owner_id` text,
	`password_hash` text NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `users_name` ON `users` (`name`);--> statement-breakpoint
CREATE TABLE `captures` (
	`id` text PRIMARY KEY NOT NULL,
	`line_id` text NOT NULL,
	`host_id` text NOT NULL,
	`forward_host_id` text NOT NULL,
	`point` text NOT NULL,
	`filter` text NOT NULL,
	`reason` text NOT NULL,
	`seconds` integer NOT NULL,
	`max_bytes` integer NOT NULL,
	`max_packets` integer,
	`snap_length` integer NOT NULL,
	`state` text NOT NULL,
	`upload_token_hash` text NOT NULL,
	`stop_reason` text,
	`error` text,
	`interface` text,
	`packets` integer,
	`received_by_filter` integer,
	`dropped_by_kernel` integer,
	`clock_offset_ms` integer,
	`size` integer,
	`sha256` text,
	`requested_by` text NOT NULL,
	`created_at` integer NOT NULL,
	`ended_at` integer,
	`delete_at` integer NOT NULL,
	FOREIGN KEY (`line_id`) REFERENCES `lines`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `captures_one_per_host` ON `captures` (`host_id`) WHERE state = 'running';--> statement-breakpoint
CREATE UNIQUE INDEX `captures_upload` ON `captures` (`upload_token_hash`);--> statement-breakpoint
CREATE INDEX `captures_line` ON `captures` (`line_id`);--> statement-breakpoint
CREATE TABLE `connections` (
	`id` text PRIMARY KEY NOT NULL,
	`line_id` text NOT NULL,
	`pair_id` text NOT NULL,
	`forward_host_id` text NOT NULL,
	`exit_host_id` text NOT NULL,
	`port` integer NOT NULL,
	`client_public_key` text NOT NULL,
	`state` text NOT NULL,
	`forward_rev` integer NOT NULL,
	`exit_rev` integer NOT NULL,
	`opened_at` integer NOT NULL,
	`closed_at` integer,
	`close_reason` text,
	FOREIGN KEY (`line_id`) REFERENCES `lines`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`pair_id`) REFERENCES `pairs`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `connections_port` ON `connections` (`forward_host_id`,`port`) WHERE state = 'active';--> statement-breakpoint
CREATE UNIQUE INDEX `connections_line` ON `connections` (`line_id`) WHERE state = 'active';--> statement-breakpoint
CREATE INDEX `connections_recent` ON `connections` (`forward_host_id`,`closed_at`);--> statement-breakpoint
CREATE INDEX `connections_by_line` ON `connections` (`line_id`,`id`);--> statement-breakpoint
CREATE TABLE `enrolment_tokens` (
	`id` text PRIMARY KEY NOT NULL,
	`token_hash` text NOT NULL,
	`prefix` text NOT NULL,
	`role` text NOT NULL,
	`region_id` text NOT NULL,
	`max_uses` integer NOT NULL,
	`used` integer NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer NOT NULL,
	FOREIGN KEY (`region_id`) REFERENCES `regions`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `enrolment_tokens_token` ON `enrolment_tokens` (`token_hash`);--> statement-breakpoint
CREATE TABLE `host_events` (
	`id` text PRIMARY KEY NOT NULL,
	`host_id` text NOT NULL,
	`at` integer NOT NULL,
	`kind` text NOT NULL,
	`item` text,
	`detail` text NOT NULL,
	FOREIGN KEY (`host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `host_events_host` ON `host_events` (`host_id`,`id`);--> statement-breakpoint
CREATE TABLE `hosts` (
	`id` text PRIMARY KEY NOT NULL,
	`role` text NOT NULL,
	`region_id` text NOT NULL,
	`name` text NOT NULL,
	`approved` integer NOT NULL,
	`state` text NOT NULL,
	`public_address` text,
	`private_address` text,
	`private_network` text,
	`out_interface` text,
	`relay_driver` text NOT NULL,
	`wireguard_port` integer NOT NULL,
	`uplink_port` integer NOT NULL,
	`enrolment_token_id` text NOT NULL,
	`identity_public_key` text NOT NULL,
	`box_public_key` text NOT NULL,
	`wireguard_public_key` text,
	`facts` text NOT NULL,
	`version` text NOT NULL,
	`boot_id` text,
	`desired_rev` integer NOT NULL,
	`applied_rev` integer,
	`applied_sha256` text,
	`applied_results` text,
	`applied_at` integer,
	`epoch` integer NOT NULL,
	`last_seen_at` integer,
	`observed` text,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`region_id`) REFERENCES `regions`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `hosts_identity` ON `hosts` (`identity_public_key`);--> statement-breakpoint
CREATE INDEX `hosts_role_region` ON `hosts` (`role`,`region_id`);--> statement-breakpoint
CREATE TABLE `line_tokens` (
	`id` text PRIMARY KEY NOT NULL,
	`line_id` text NOT NULL,
	`name` text NOT NULL,
	`prefix` text NOT NULL,
	`token_hash` text NOT NULL,
	`created_at` integer NOT NULL,
	`revoked_at` integer,
	FOREIGN KEY (`line_id`) REFERENCES `lines`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `line_tokens_token` ON `line_tokens` (`token_hash`);--> statement-breakpoint
CREATE INDEX `line_tokens_line` ON `line_tokens` (`line_id`);--> statement-breakpoint
CREATE TABLE `lines` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`resource_id` text NOT NULL,
	`source_region_id` text NOT NULL,
	`destination_region_id` text NOT NULL,
	`line_type` text NOT NULL,
	`state` text NOT NULL,
	`exit_host_id` text,
	`eip` text,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`resource_id`) REFERENCES `resources`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`exit_host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `lines_resource` ON `lines` (`resource_id`);--> statement-breakpoint
CREATE UNIQUE INDEX `lines_exit` ON `lines` (`exit_host_id`) WHERE state <> 'deleted' AND exit_host_id IS NOT NULL;--> statement-breakpoint
CREATE INDEX `lines_user` ON `lines` (`user_id`);--> statement-breakpoint
CREATE TABLE `pairs` (
	`id` text PRIMARY KEY NOT NULL,
	`boarding_host_id` text NOT NULL,
	`boarding_address` text NOT NULL,
	`forward_host_id` text NOT NULL,
	`start_port` integer NOT NULL,
	`max_load` integer NOT NULL,
	`last_port` integer,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`boarding_host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`forward_host_id`) REFERENCES `hosts`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `pairs_forward` ON `pairs` (`forward_host_id`);--> statement-breakpoint
CREATE INDEX `pairs_boarding` ON `pairs` (`boarding_host_id`);--> statement-breakpoint
CREATE TABLE `provision_steps` (
	`line_id` text NOT NULL,
	`step` text NOT NULL,
	`state` text NOT NULL,
	`tries` integer NOT NULL,
	`last_error` text,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`line_id`) REFERENCES `lines`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `provision_steps_line_step` ON `provision_steps` (`line_id`,`step`);--> statement-breakpoint
CREATE TABLE `jobs` (
	`id` text PRIMARY KEY NOT NULL,
	`kind` text NOT NULL,
	`payload` text NOT NULL,
	`run_at` integer NOT NULL,
	`dedupe_key` text NOT NULL,
	`state` text NOT NULL,
	`attempts` integer NOT NULL,
	`lease_token` text,
	`lease_until` integer,
	`last_error` text,
	`created_at` integer NOT NULL,
	`finished_at` integer
);
--> statement-breakpoint
CREATE UNIQUE INDEX `jobs_dedupe` ON `jobs` (`dedupe_key`);--> statement-breakpoint
CREATE INDEX `jobs_due` ON `jobs` (`run_at`) WHERE state = 'waiting';--> statement-breakpoint
CREATE INDEX `jobs_leased` ON `jobs` (`lease_until`) WHERE state = 'running';--> statement-breakpoint
CREATE TABLE `line_service_types` (
	`line_id` text NOT NULL,
	`service_type_id` text NOT NULL,
	PRIMARY KEY(`line_id`, `service_type_id`),
	FOREIGN KEY (`service_type_id`) REFERENCES `service_types`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `line_service_types_type` ON `line_service_types` (`service_type_id`);--> statement-breakpoint
CREATE TABLE `orders` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`kind` text NOT NULL,
	`state` text NOT NULL,
	`quote_id` text NOT NULL,
	`group_id` text NOT NULL,
	`service_type_ids` text NOT NULL,
	`quantity` integer NOT NULL,
	`amount_fen` integer NOT NULL,
	`created_at` integer NOT NULL,
	`pay_by` integer NOT NULL,
	`paid_at` integer,
	`ended_at` integer,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`quote_id`) REFERENCES `quotes`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`group_id`) REFERENCES `groups`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `orders_quote` ON `orders` (`quote_id`);--> statement-breakpoint
CREATE INDEX `orders_user` ON `orders` (`user_id`);--> statement-breakpoint
CREATE TABLE `payments` (
	`id` text PRIMARY KEY NOT NULL,
	`order_id` text NOT NULL,
	`channel` text NOT NULL,
	`amount_fen` integer NOT NULL,
	`state` text NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`order_id`) REFERENCES `orders`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `payments_order_channel` ON `payments` (`order_id`,`channel`);--> statement-breakpoint
CREATE TABLE `prices` (
	`id` text PRIMARY KEY NOT NULL,
	`product_id` text NOT NULL,
	`region_id` text NOT NULL,
	`monthly_fen` integer NOT NULL,
	`quarter_discount_bps` integer NOT NULL,
	`half_year_discount_bps` integer NOT NULL,
	`year_discount_bps` integer NOT NULL,
	`on_sale` integer NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`product_id`) REFERENCES `products`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`region_id`) REFERENCES `regions`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `prices_product_region` ON `prices` (`product_id`,`region_id`);--> statement-breakpoint
CREATE TABLE `products` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`line_type` text NOT NULL,
	`on_sale` integer NOT NULL,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `quotes` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`price_id` text NOT NULL,
	`charge_type` text NOT NULL,
	`periods` integer NOT NULL,
	`quantity` integer NOT NULL,
	`months` integer NOT NULL,
	`lines` text NOT NULL,
	`total_fen` integer NOT NULL,
	`basis_hash` text NOT NULL,
	`created_at` integer NOT NULL,
	`expires_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE INDEX `quotes_user` ON `quotes` (`user_id`);--> statement-breakpoint
CREATE TABLE `regions` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`saleable` integer NOT NULL,
	`source_region_id` text,
	`created_at` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `resources` (
	`id` text PRIMARY KEY NOT NULL,
	`order_id` text NOT NULL,
	`ordinal` integer NOT NULL,
	`user_id` text NOT NULL,
	`group_id` text NOT NULL,
	`kind` text NOT NULL,
	`state` text NOT NULL,
	`starts_at` integer NOT NULL,
	`ends_at` integer NOT NULL,
	`anchor_day` integer NOT NULL,
	`created_at` integer NOT NULL,
	FOREIGN KEY (`order_id`) REFERENCES `orders`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action,
	FOREIGN KEY (`group_id`) REFERENCES `groups`(`id`) ON UPDATE no action ON DELETE no action
);
--> statement-breakpoint
CREATE UNIQUE INDEX `resources_order_ordinal` ON `resources` (`order_id`,`ordinal`);--> statement-breakpoint
CREATE INDEX `resources_user` ON `resources` (`user_id`);--> statement-breakpoint
CREATE TABLE `service_types` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`cidrs` text NOT NULL,
	`domains` text NOT NULL,
	`created_at` integer NOT NULL
);
