# docker build -t pure .                        for a CPU
# docker build -t pure --build-arg EXTRA=cuda . for NVIDIA's GPUs; EXTRA=tpu for a TPU host
FROM python:3.12-slim
ARG EXTRA=""
COPY . /src
RUN pip install --no-cache-dir "/src[app,serve,photos${EXTRA:+,$EXTRA}]" && rm -rf /src
# Compiled programs and models from the hub are kept here, whoever the user is; mount it to keep them longer.
ENV XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface
RUN mkdir -m 1777 /cache
WORKDIR /work
ENTRYPOINT ["pure"]
CMD ["--help"]
