CREATE TABLE `account_whitelists` (
	`user_id` text PRIMARY KEY NOT NULL,
	`cidrs` text NOT NULL,
	`domains` text NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `users`(`id`) ON UPDATE no action ON DELETE no action
);
